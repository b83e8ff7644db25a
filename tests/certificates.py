"""Certificates for servers with TLS, made by `openssl`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

__all__ = ["Certificates"]


class Certificates:
    """A certificate authority and certificates that it has signed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.authority = folder / "ca.crt"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                      "-keyout", folder / "ca.key", "-out", self.authority, "-days", "2",
                      "-subj", f"/CN={folder.name}")  # fmt: skip

    def sign(self, name: str, subject: str) -> tuple[Path, Path]:
        """Return certificate and key for a subject alternative name."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                      "-CA", self.authority, "-CAkey", self.folder / "ca.key", "-keyout", key, "-out", certificate,
                      "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={subject}",
                      "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
        return certificate, key

    def keystore(self, certificate: Path, key: Path, to: Path) -> None:
        """Put a certificate and its key into a file for Java, with the password "secret"."""
        self._openssl("pkcs12", "-export", "-in", certificate, "-inkey", key, "-out", to, "-passout", "pass:secret")

    def _openssl(self, *arguments: Any) -> None:
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
