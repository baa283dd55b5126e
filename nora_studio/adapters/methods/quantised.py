"""Which methods can stand beside a base in 8 or 4 bits."""

from collections.abc import Collection

from nora_studio.adapters.methods.table import METHODS
from nora_studio.errors import StudioError


def work_on(methods: Collection[str], bits: int) -> bool:
    """Return whether all of some methods can stand beside a base of so many bits."""
    return bits == 16 or all(bits in METHODS[method].bits for method in methods)


def check_on_quantised(methods: Collection[str], bits: int) -> None:
    """Refuse methods that would misread a quantised base.

    Raises:
        StudioError: one is among them.
    """
    if not work_on(methods, bits):
        foreign = next(method for method in methods if bits not in METHODS[method].bits)
        others = sorted(name for name, method in METHODS.items() if bits in method.bits)
        raise StudioError(
            f"--base-bits {bits}: {foreign} needs the base's weights unquantised. Leave the option "
            f"out, or use one of {', '.join(others)}."
        )
