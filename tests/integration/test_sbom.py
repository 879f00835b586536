"""The bill of materials names what the linker took, and nothing else."""

import json
import subprocess

from harness import ROOT, artifact


def test_names_what_is_linked():
    program = artifact("mayfly")
    done = subprocess.run([ROOT / "scripts/sbom", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    bill = json.loads(done.stdout)
    linked = {r["relatedSpdxElement"] for r in bill["relationships"] if r["relationshipType"] == "STATIC_LINK"}
    parts = {p["SPDXID"]: p for p in bill["packages"]}
    assert linked == set(parts) - {"SPDXRef-mayfly"}
    names = sorted(parts[part]["name"].split("-")[0] for part in linked)
    assert names == ["libgcc", "libhttp", "libjansson", "liburing", "musl"]
    for part in linked:
        version = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", parts[part]["name"]], capture_output=True, text=True, check=True).stdout
        assert parts[part]["versionInfo"] == version
