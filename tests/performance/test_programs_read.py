"""The TPU compiler's programs are read right: collectives, traffic, buffers, transfers."""

from nonlocal_jax.performance import hlo
from nonlocal_jax.performance.hlo import Collective

PROGRAM = """
HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%one_row (whole: bf16[8,128]) -> bf16[1,128] {
  %whole = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[] constant(0)
  ROOT %row = bf16[1,128]{1,0:T(2,128)(2,1)} dynamic-slice(%whole, %zero, %zero)
}

%body (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %moved = f32[8,128]{1,0:T(8,128)S(1)} collective-permute(%x), source_target_pairs={{0,1}}
  ROOT %next = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%turn, %moved)
}

%goes_on (s: (s32[], f32[8,128])) -> pred[] {
  %s = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %limit = s32[]{:T(128)} constant(7)
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (p: bf16[8,128], q: f32[8,128]) -> f32[8,128] {
  %p = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %q = f32[8,128]{1,0:T(8,128)} parameter(1)
  %row_fusion = bf16[1,128]{1,0:T(2,128)(2,1)S(1)} fusion(%p), kind=kLoop, calls=%one_row
  %sums = (f32[64]{0:T(128)}, f32[32]{0:T(128)}) all-reduce(%u, %v), to_apply=%add
  %gathering = (bf16[2,128]{1,0}, bf16[8,128]{1,0}) all-gather-start(%row_fusion), dimensions={0}
  %gathered = bf16[8,128]{1,0} all-gather-done(%gathering)
  %start = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%zero, %q)
  %loop = (s32[], f32[8,128]{1,0}) while(%start), condition=%goes_on, body=%body
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""

BUFFERS = """BufferAssignment:
allocation 0: size 512, constant:
 value: <432 constant.11 @0> (size=512,offset=0): bf16[]{:T(256)}
allocation 1: size 4096, parameter 4, shape |f32[1024]| at ShapeIndex {}, maybe-live-out:
allocation 2: size 1024, maybe-live-out:
allocation 3: size 64, output shape is |(f32[1024])|, maybe-live-out:
allocation 4: size 8192, preallocated-temp:
allocation 5: size 38604800, color 1, preallocated-temp:
"""


def test_collectives_are_counted_with_their_bytes_and_the_turns_of_loops():
    kinds = {c.kind: c for c in hlo.collectives(hlo.Program(PROGRAM))}
    assert kinds["all-reduce"] == Collective("all-reduce", 1, 4 * 96, 4 * 96)
    permuted = 4 * 8 * 128
    assert kinds["collective-permute"] == Collective(
        "collective-permute", 7, 7 * permuted, permuted
    )
    # The shape of an asynchronous one lists what goes in beside what comes out.
    assert kinds["all-gather"].count == 1
    assert kinds["all-gather"].largest == 2 * (2 + 8) * 128 - 2 * 128
    assert len(kinds) == 3


def test_traffic_leaves_out_what_stays_on_the_chip_and_what_a_fusion_does_not_look_at():
    alone = PROGRAM.replace("%loop = ", "%unused = ").replace(" while(", " custom(")
    lines = [line for line in alone.splitlines() if "all-" not in line and "%unused" not in line]
    assert hlo.traffic(hlo.Program("\n".join(lines))) == 2 * 128  # one row is read


def test_buffers_by_use():
    sizes = hlo.buffers(BUFFERS)
    assert sizes == {"arguments": 4096, "outputs": 1024 + 64, "temporaries": 8192 + 512}


TRANSFER = """
ENTRY %main (p: f32[64,8,128]) -> f32[64,8,128] {
  %p = f32[64,8,128]{2,1,0:T(8,128)} parameter(0)
  %after = token[] after-all()
  %send = (f32[64,8,128]{2,1,0}, u32[], token[]) send(%p, %after), is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[64,8,128]{2,1,0}, u32[], token[]) recv(%after), is_host_transfer=true, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send)
  %got = (f32[64,8,128]{2,1,0}, token[]) recv-done(%recv)
  ROOT %result = f32[64,8,128]{2,1,0} get-tuple-element(%got), index=0
}
"""


def test_what_goes_to_other_slices_is_counted_once():
    program = hlo.Program(TRANSFER)
    size = 4 * 64 * 8 * 128
    assert hlo.transfers(program) == [Collective("all-reduce", 1, size, size)]
    assert hlo.collectives(program) == []
    assert hlo.traffic(program) == 2 * size + 4  # sent, and received with a marker
