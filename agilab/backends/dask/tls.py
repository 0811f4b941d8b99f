"""The certificate authority of one run: made, used once to sign, and forgotten; it opens no connection.

Scheduler, workers and clients of a run present one certificate and take no
other, so that another user of the machine can reach none of their ports.
The private key of the authority is never written.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agilab.paths import make_folder, write_file
from agilab.reaper import start_time

VALID = dt.timedelta(days=30)
"""Longest run that a certificate serves."""

_OWNER = "owner.json"


@dataclass(frozen=True, slots=True)
class Certificates:
    """A folder with ``ca.pem``, ``cert.pem`` and ``key.pem``."""

    folder: Path

    def security(self) -> Mapping[str, str | bool]:
        """Return the arguments of `distributed.Security` for every role."""
        ca, cert, key = (str(self.folder / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        roles = ("client", "scheduler", "worker")
        return {
            "require_encryption": True,
            "tls_ca_file": ca,
            **{f"tls_{role}_cert": cert for role in roles},
            **{f"tls_{role}_key": key for role in roles},
        }

    def remove(self) -> None:
        """Remove the folder. Idempotent."""
        shutil.rmtree(self.folder, ignore_errors=True)


def issue(folder: Path, name: str, *, sockets: Path | None = None) -> Certificates:
    """Make an authority and one certificate that it signs.

    Parameters
    ----------
    folder
        Made here; only its owner may enter it. What runs that were killed have left beside it is removed.
    name
        What the certificate is for: a run id.
    sockets
        A temporary folder that is to be removed with the keys if this process is killed.
    """
    _sweep(folder.parent)
    make_folder(folder)
    made = Certificates(folder)
    write_file(folder / _OWNER, json.dumps([*_me(), str(sockets or "")]).encode(), durable=False)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _named(f"AGILAB {name}")
    ca = _certificate(issuer, issuer, authority.public_key(), authority, ca=True)
    certificate = _certificate(_named(name), issuer, key.public_key(), authority, ca=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, data in (("ca.pem", _pem(ca)), ("cert.pem", _pem(certificate)), ("key.pem", private)):
        write_file(folder / file, data, durable=False)
    return made


def pem_of(security: Mapping[str, Any]) -> dict[str, str]:
    """Return ``ca``, ``cert`` and ``key`` as text, from the arguments of `distributed.Security`."""
    files = {"ca": "tls_ca_file", "cert": "tls_worker_cert", "key": "tls_worker_key"}
    return {name: Path(security[file]).read_text(encoding="utf-8") for name, file in files.items()}


def _me() -> list[str | int]:
    return [os.uname().nodename, os.getpid(), start_time(os.getpid())]


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # a host's clock may be behind
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca,
                key_cert_sign=ca,
                crl_sign=ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    return builder.sign(signer, hashes.SHA256())


def _sweep(root: Path) -> None:
    """Remove the keys of runs whose process was killed before it could."""
    for owner in root.glob(f"*/{_OWNER}"):
        try:
            host, pid, started, sockets = json.loads(owner.read_bytes())
        except (OSError, ValueError):
            continue
        if host == os.uname().nodename and start_time(pid) != started:
            if sockets:
                shutil.rmtree(sockets, ignore_errors=True)
            shutil.rmtree(owner.parent, ignore_errors=True)
