"""The bill of materials names what the linker took, and nothing else; it is made of every static program."""

import json
import os
import subprocess

import pytest

from harness import BUILD, ROOT, artifact

CONTAINERS = ["libgcc", "libjansson", "musl"]
PARTS = {"mayfly": ["libgcc", "libhttp", "libjansson", "liburing", "musl"], "mayfly-run": CONTAINERS, "mayfly-oci": CONTAINERS,
         "mayfly-init": ["libgcc", "musl"], "mayfly-jailer": ["libgcc", "musl"]}


@pytest.mark.parametrize("name", PARTS)
def test_names_what_is_linked(name):
    program = artifact(name)
    done = subprocess.run([ROOT / "scripts/sbom", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    bill = json.loads(done.stdout)
    linked = {r["relatedSpdxElement"] for r in bill["relationships"] if r["relationshipType"] == "STATIC_LINK"}
    parts = {p["SPDXID"]: p for p in bill["packages"]}
    assert linked == set(parts) - {f"SPDXRef-{name}"}
    names = sorted(parts[part]["name"].split("-")[0] for part in linked)
    assert names == PARTS[name]
    for part in linked:
        version = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", parts[part]["name"]], capture_output=True, text=True, check=True).stdout
        assert parts[part]["versionInfo"] == version


def test_names_every_program():
    """What `make sbom` lists is what `make` links."""
    said = subprocess.run(["make", "--no-print-directory", "-n", "-o", "all", "sbom", f"BUILD={os.path.relpath(BUILD, ROOT)}"], cwd=ROOT, capture_output=True,
                          text=True, timeout=60, check=True).stdout
    listed = {word.rsplit("/", 1)[-1] for line in said.splitlines() if line.startswith("scripts/sbom") for word in line.split(">")[0].split()[1:]}
    assert listed == {path.name.removesuffix(".map") for path in BUILD.glob("*.map")}
