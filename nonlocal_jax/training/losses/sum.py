"""A weighted sum of two or three losses, as cross entropy and Dice; a term may be a sum itself.

The accuracy is that of the first term.
"""

from dataclasses import dataclass

from nonlocal_jax.config.schema import LossOptions, NotNegative, chosen
from nonlocal_jax.training.losses.loss import Labels, Logits, Loss, LossAndAccuracy, make_loss


@dataclass(frozen=True, kw_only=True)
class Options(LossOptions):
    """Settings of the sum."""

    name: str = "sum"
    first: LossOptions = chosen("losses", "cross_entropy")
    """The first term, a loss with its own keys, such as `first.name` and `first.class_weights`."""
    second: LossOptions = chosen("losses", "dice")
    """The second term."""
    third: LossOptions = chosen("losses", "lovasz")
    """The third term."""
    first_weight: NotNegative = 1.0
    """Factor of the first term."""
    second_weight: NotNegative = 1.0
    """Factor of the second term."""
    third_weight: NotNegative = 0.0
    """Factor of the third term. 0: it is not computed."""

    def problems(self, key: str, num_classes: int) -> list[str]:
        """See LossOptions."""
        if not (self.first_weight or self.second_weight or self.third_weight):
            return [
                f"config.{key} is a sum whose terms all have the weight 0: nothing is learned. "
                f"Give config.{key}.first_weight, second_weight or third_weight a value above 0."
            ]
        terms = {"first": self.first, "second": self.second, "third": self.third}
        return [
            problem
            for name, term in terms.items()
            for problem in term.problems(f"{key}.{name}", num_classes)
        ]


def build(options: Options) -> Loss:
    """The loss of a config."""
    terms = [
        (options.first_weight, make_loss(options.first, "loss.first")),
        (options.second_weight, make_loss(options.second, "loss.second")),
        (options.third_weight, make_loss(options.third, "loss.third")),
    ]

    def loss(logits: Logits, labels: Labels, align_corners: bool) -> LossAndAccuracy:
        (weight, first), *others = terms
        total, accuracy = first(logits, labels, align_corners)
        total = weight * total
        for weight, term in others:
            if weight:
                total += weight * term(logits, labels, align_corners).loss
        return LossAndAccuracy(total, accuracy)

    return loss
