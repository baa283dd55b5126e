"""Accounts: a text file with one line each, `name:scrypt...`; it holds no password, only hashes."""

import base64
import hashlib
import hmac
import re
import secrets
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.runs.atomic import write_text

MIN_PASSWORD_LENGTH = 8
MAX_PASSWORD_LENGTH = 256
"""Characters. Longer passwords would cost the server time and add no security."""
COST = (2**15, 8, 3)
"""scrypt's N, r and p: 32 MiB and about a third of a second (OWASP's password storage guide)."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"scrypt\$(\d+)\$(\d+)\$(\d+)\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")


def hash_password(password: str, cost: tuple[int, int, int] = COST) -> str:
    """Return the hash that is stored for a password: `scrypt$N$r$p$salt$hash`.

    Raises:
        StudioError: the password is too short or too long.
    """
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise StudioError(
            f"expected a password of {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters; "
            f"got {len(password)}."
        )
    salt = secrets.token_bytes(16)
    digest = _scrypt(password, salt, cost)
    numbers = "$".join(map(str, cost))
    return f"scrypt${numbers}${_text(salt)}${_text(digest)}"


def password_matches(password: str, stored_hash: str) -> bool:
    """Return whether a password matches a stored hash; takes the same time either way."""
    match = _HASH.fullmatch(stored_hash)
    if match is None or len(password) > MAX_PASSWORD_LENGTH:
        return False
    n, r, p = (int(number) for number in match.groups()[:3])
    salt, digest = (base64.b64decode(part) for part in match.groups()[3:])
    return hmac.compare_digest(_scrypt(password, salt, (n, r, p)), digest)


def _scrypt(password: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    n, r, p = cost
    memory = 2 * 128 * n * r * p
    content = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(content, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=32)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


class Accounts:
    """The accounts of a file, which is read again whenever it has changed."""

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            StudioError: the file cannot be read, or a line is not an account; the error names
                the line's number and never its text.
        """
        self.file = Path(file).expanduser()
        self._changed = self._stamp()
        self._hashes = read_accounts(self.file)
        # Refusing an unknown name must take as long as refusing a wrong password.
        self._dummy_hash = hash_password(secrets.token_urlsafe(16), self._cost())

    def _stamp(self) -> int:
        try:
            return self.file.stat().st_mtime_ns
        except OSError:
            return 0

    def _cost(self) -> tuple[int, int, int]:
        match = _HASH.fullmatch(next(iter(self._hashes.values()), ""))
        return (int(match[1]), int(match[2]), int(match[3])) if match else COST

    def password_hash_of(self, name: str) -> str | None:
        """Return the stored hash of an account's password; None: there is no such account."""
        stamp = self._stamp()
        if stamp != self._changed:
            # If the file is half edited or gone, the next line raises and no account is left.
            self._changed, self._hashes = stamp, {}
            self._hashes = read_accounts(self.file)
        return self._hashes.get(name)

    def check_password(self, name: str, password: str) -> bool:
        """Return whether the account exists and this is its password. Takes a third of a second."""
        stored_hash = self.password_hash_of(name)
        return (
            password_matches(password, stored_hash or self._dummy_hash) and stored_hash is not None
        )


def read_accounts(file: Path) -> dict[str, str]:
    """Read the hashes by name. Empty lines and lines that begin with # are skipped.

    Raises:
        StudioError: the file cannot be read, contains no account, or has a malformed line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise StudioError(
            f"--auth: {file} cannot be read: {reason}. Create it with --add-account."
        ) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, stored_hash = line.strip().partition(":")
        where = f"--auth: {file}, line {number}"
        if not colon or not _NAME.fullmatch(name):
            raise StudioError(
                f"{where}: expected name:hash. Remove the line; add the account with --add-account."
            )
        if not _HASH.fullmatch(stored_hash):
            raise StudioError(
                f"{where}: expected a scrypt hash after the name, never a password itself. Remove "
                f"the line, change that password wherever it is used, and add {name} with "
                "--add-account."
            )
        if name in found:
            raise StudioError(f"{where}: {name} already has a line above. Remove one of the two.")
        found[name] = stored_hash
    if not found:
        raise StudioError(f"--auth: {file} contains no account. Add one with --add-account.")
    return found


def add_account(file: Path, name: str, password: str) -> None:
    """Add an account to a file, created if needed; an existing name gets the new password.

    Raises:
        StudioError: the name or the password is not allowed, or the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise StudioError(
            "expected a name of letters, digits and . _ @ - (64 at most, a letter or digit first); "
            f"got {name[:80]!r}."
        )
    file = Path(file).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        if any(line.strip() and not line.startswith("#") for line in lines):
            read_accounts(file)
        kept = [line for line in lines if line.partition(":")[0].strip() != name]
        text = "\n".join([*kept, f"{name}:{hash_password(password)}"]) + "\n"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text, durable=True)
        file.chmod(0o600)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise StudioError(f"{file} cannot be written: {reason}. Name another file.") from error
