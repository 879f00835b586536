"""Mayfly's image builder: OCI and docker images, tars and directories become one EROFS or ext4 file."""
