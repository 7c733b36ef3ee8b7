"""Which amendments this site has signed: one per number, for two of one number could both reach a quorum.

Any two quorums share a site, so two amendments with one number are never both in force as long as no site signs both.
"""

from __future__ import annotations

import json
from pathlib import Path

from kmel_p2p.agreement.amendment import Amendment
from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.files import private_directory, write_whole

SIGNED_NAME = "signed-amendments.json"


def note_signature(state_dir: Path, amendment: Amendment, instead: bool) -> None:
    """Record that this site signs an amendment; call it before the signature is handed out.

    Args:
        instead: sign although another one of that number was signed, which takes its place in the record.

    Raises:
        LocalError: another one of that number was signed.
        ConfigError: the record cannot be read or written.
    """
    path = state_dir / SIGNED_NAME
    try:
        signed = dict(parse_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        signed = {}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}. It says which amendments this site has signed; restore it, or move it "
            "away if no amendment is under way"
        ) from None
    number, hash_ = str(amendment.number), amendment.hash.hex()
    before = signed.get(number, hash_)
    if before != hash_ and not instead:
        raise LocalError(
            f"this site has signed another amendment {number} ({str(before)[:16]}) than this one ({hash_[:16]}). "
            "If both reached a quorum, one would be overruled, and what sites published under it would be taken back. "
            "Sign with --instead only when all sites have dropped the other one"
        )
    if signed.get(number) != hash_:
        private_directory(state_dir)
        write_whole(path, json.dumps({**signed, number: hash_}, indent=1).encode())
