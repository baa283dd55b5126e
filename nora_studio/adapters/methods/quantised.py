"""Which methods work on a base quantised to 8 or 4 bits."""

from collections.abc import Collection

from nora_studio.adapters.methods.table import METHODS
from nora_studio.errors import StudioError


def support_bits(methods: Collection[str], bits: int) -> bool:
    """Return whether all of some methods work on a base of so many bits; 16 is unquantised."""
    return bits == 16 or all(bits in METHODS[method].bits for method in methods)


def check_base_bits(methods: Collection[str], bits: int) -> None:
    """Refuse methods that do not work on a base of so many bits.

    Raises:
        StudioError: one of them does not.
    """
    if not support_bits(methods, bits):
        foreign = next(method for method in methods if bits not in METHODS[method].bits)
        others = sorted(name for name, method in METHODS.items() if bits in method.bits)
        raise StudioError(
            f"--base-bits {bits}: expected a method that works on a base of {bits} bits "
            f"({', '.join(others)}); got {foreign}. Leave the option out, or choose another method."
        )
