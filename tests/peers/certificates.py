"""Makes an authority and certificates for 127.0.0.1, for servers that talk with each other in tests.

    certificates.py DIRECTORY NAME …    writes ca.pem, and NAME.pem and NAME.key for each name

Runs with a Python that has `cryptography`, as that of Synapse does.
"""

import datetime
import ipaddress
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def main(directory, *names):
    directory = pathlib.Path(directory)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of tests")])
    authority = builder(ca_name, ca_name, ca_key).add_extension(x509.BasicConstraints(True, None), True)
    authority = authority.sign(ca_key, hashes.SHA256())
    (directory / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = builder(subject, ca_name, key).add_extension(x509.SubjectAlternativeName([address]), False)
        certificate = certificate.sign(ca_key, hashes.SHA256())
        (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (directory / f"{name}.key").write_bytes(text)


def builder(subject, issuer, key):
    now = datetime.datetime.now(datetime.timezone.utc)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    return made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=30))


if __name__ == "__main__":
    main(*sys.argv[1:])
