"""What the fuzzing tests share: how many examples, values that JSON can hold, damage."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def fuzz(max_examples):
    """The same examples each time, as many as fit into seconds."""
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    checks += [HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=checks,
    )


@st.composite
def mutated(draw, whole):
    """``whole`` with bits flipped, parts cut out, doubled, zeroed or replaced."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        size = draw(st.integers(1, 64) | st.integers(1, 5000))
        match draw(st.sampled_from(["flip", "cut", "tail", "double", "zero", "new"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + size]
            case "tail":
                del data[at:]
            case "double":
                data[at:at] = data[at : at + size]
            case "zero":
                data[at : at + size] = bytes(len(data[at : at + size]))
            case "new":
                data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=12))
    return bytes(data)
