"""The reader of compiled programs, on one that is small enough to count by hand."""

import pytest

from trm_jax.hardware.hlo import Collective, Hlo

TEXT = """HloModule jit_f, is_scheduled=true

%fused (p.0: f32[8,4]) -> f32[8,4] {
  %p.0 = f32[8,4]{1,0} parameter(0)
  ROOT %dot.1 = f32[8,4]{1,0} dot(%p.0, %p.0), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}

%inner (state.1: (f32[8,4], s32[])) -> (f32[8,4], s32[]) {
  %state.1 = (f32[8,4]{1,0}, s32[]) parameter(0)
  %h.1 = f32[8,4]{1,0} get-tuple-element(%state.1), index=0
  %copy.1 = f32[8,4]{1,0} copy(%h.1)
  %call.1 = (f32[8,4]{1,0}, u8[0]{0}) custom-call(%copy.1), custom_call_target="__cudnn$fmhaSoftmax"
  ROOT %out.1 = (f32[8,4]{1,0}, s32[]) tuple(%copy.1, %h.1)
}

%body (state.2: (f32[8,4], s32[])) -> (f32[8,4], s32[]) {
  %state.2 = (f32[8,4]{1,0}, s32[]) parameter(0)
  %fusion.2 = f32[8,4]{1,0} fusion(%state.2), kind=kLoop, calls=%fused
  ROOT %while.2 = (f32[8,4]{1,0}, s32[]) while(%state.2), body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %start = (f32[8,4]{1,0}, s32[]) tuple(%x)
  %fusion-start = ((f32[8,4]), f32[8,4]) fusion-start(%x), calls=%fused
  %fusion-done = f32[8,4]{1,0} fusion-done(%fusion-start)
  %while.3 = (f32[8,4]{1,0}, s32[]) while(%start), body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %y = f32[8,4]{1,0} get-tuple-element(%while.3), index=0
}
"""


def test_loops_kernels_and_launches_are_counted():
    program = Hlo(TEXT)
    assert [loop.path for loop in program.loops] == [(5,), (5, 3)]
    assert [kernel.opcode for kernel in program.kernels(program.loop(5, 3).body)] == ["copy", "custom-call"]
    assert [kernel.name for kernel in program.kernels(program.entry)] == ["fusion-start"]
    assert program.launches() == 1 + 5 * (1 + 3 * 2)
    with pytest.raises(ValueError, match="0 loops"):
        program.loop(7)


EXCHANGES = """HloModule jit_f, is_scheduled=true

%body (state.2: (f32[8,4], s32[])) -> (f32[8,4], s32[]) {
  %state.2 = (f32[8,4]{1,0}, s32[]) parameter(0)
  %all-reduce-start.1 = ((f32[8,4]{1,0}, bf16[2]{0}), (f32[8,4]{1,0}, bf16[2]{0})) all-reduce-start(%state.2)
  %all-reduce-done.1 = (f32[8,4]{1,0}, bf16[2]{0}) all-reduce-done(%all-reduce-start.1)
  ROOT %out.1 = (f32[8,4]{1,0}, s32[]) tuple(%all-reduce-done.1)
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %all-gather.1 = f32[32,4]{1,0} all-gather(%x), dimensions={0}
  %while.3 = (f32[8,4]{1,0}, s32[]) while(%x), body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %y = f32[8,4]{1,0} get-tuple-element(%while.3), index=0
}
"""


def test_exchanges_between_devices_are_counted_with_their_results():
    whole, in_loop = Hlo(EXCHANGES).collectives
    assert whole == Collective("all-gather", 32 * 4 * 4, ())
    assert in_loop == Collective("all-reduce", 8 * 4 * 4 + 2 * 2, (5,))
    assert (whole.times, in_loop.times) == (1, 5)


def test_sizes_targets_and_what_is_fused_are_read():
    program = Hlo(TEXT)
    copy, call = program.kernels(program.loop(5, 3).body)
    assert (copy.bytes, call.bytes, call.target) == (8 * 4 * 4, 8 * 4 * 4, "__cudnn$fmhaSoftmax")
    [fusion] = program.kernels(program.loop(5).body)
    assert [inner.opcode for inner in program.inside(fusion)] == ["fusion", "parameter", "dot"]
