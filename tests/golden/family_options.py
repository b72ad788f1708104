"""Options of heads that no published row has: for make_family_options.py, test_head_options.py."""

from dataclasses import dataclass, replace

from family_cases import CASES

SIZES = ((9, 7), (5, 6), (3, 2))


@dataclass(frozen=True)
class Variant:
    """A head with other options, of which `ours` and `theirs` are those that differ."""

    method: str
    theirs: dict
    ours: dict
    sizes: tuple[tuple[int, int], ...] = SIZES
    align_corners: bool = False

    @property
    def case(self):
        """As a case of family_cases.py."""
        case = CASES[self.method]
        return replace(
            case,
            theirs={**case.theirs, **self.theirs, "align_corners": self.align_corners},
            ours={**case.ours, **self.ours},
            sizes=self.sizes,
        )


def psa(theirs, ours, **options):
    return Variant("psa", theirs, ours, **options)


UNSCALED = {"softmax": False, "normalization_factor": 81.0}
COLLECT, DISTRIBUTE = {"branches": "collect"}, {"branches": "distribute"}
VARIANTS = {
    "psa_even_shrunk": psa(
        {"mask_size": (6, 4), "shrink_factor": 3, "psa_type": "collect"},
        {"mask_size": (6, 4), "shrink_factor": 3, **COLLECT},
        sizes=((9, 7), (5, 12), (8, 10)),
    ),
    "psa_compact": psa(
        {"mask_size": (5, 4), "compact": True, "psa_softmax": False},
        {"mask_size": (5, 4), "compact": True, "softmax": False},
        sizes=((9, 7),),
    ),
    "psa_distribute": psa({"psa_type": "distribute"}, DISTRIBUTE),
    "psa_unscaled": psa({"psa_softmax": False, "normalization_factor": 81.0}, UNSCALED),
    "psa_whole": psa({"shrink_factor": 1}, {"shrink_factor": 1}),
    "psa_whole_aligned": psa({"shrink_factor": 1}, {"shrink_factor": 1}, align_corners=True),
    "psa_small_mask": psa({"mask_size": (3, 5)}, {"mask_size": (3, 5)}),
    "psa_smallest_mask": psa({"mask_size": (1, 1)}, {"mask_size": (1, 1)}),
    # The reference exchanges both in a compact head of one branch.
    "psa_compact_collect": psa(
        {"mask_size": (4, 3), "compact": True, "psa_type": "distribute"},
        {"mask_size": (4, 3), "compact": True, **COLLECT},
        sizes=((8, 6),),
    ),
    "psa_compact_distribute": psa(
        {"mask_size": (4, 3), "compact": True, "psa_type": "collect"},
        {"mask_size": (4, 3), "compact": True, **DISTRIBUTE},
        sizes=((8, 6),),
    ),
    "isa_large_blocks": Variant("isa", {"down_factor": (8, 8)}, {"group": (8, 8)}),
    "isa_small_blocks": Variant("isa", {"down_factor": (2, 4)}, {"group": (2, 4)}),
    "ema_one_step": Variant(
        "ema", {"concat_input": False, "num_stages": 1}, {"concat_input": False, "steps": 1}
    ),
    "ann_other_grids": Variant("ann", {"key_pool_scales": (2, 7)}, {"grids": (2, 7)}),
}
