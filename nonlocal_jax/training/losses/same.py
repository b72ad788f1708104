"""The loss of the auxiliary head is that of the decode head."""

from dataclasses import dataclass
from typing import NoReturn

from nonlocal_jax.config.schema import LossOptions
from nonlocal_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options(LossOptions):
    """This loss has no settings."""

    name: str = "same"


def build(options: Options) -> NoReturn:
    """Raises a UserError: it is the name of another one's loss."""
    raise UserError(
        "A loss is 'same': only config.auxiliary_loss may be, which then is config.loss."
    )
