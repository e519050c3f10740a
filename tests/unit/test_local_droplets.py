"""Places in `local_droplets`: none changes its meaning while anything may refer to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.model.local_droplets import IngressAddress, assign_indexes, indexes_of, ingress_addresses
from agent.core.model.map_layout import LOCAL_DROPLET, MAX_LOCAL_DROPLETS, U32, mapped

wishes = st.lists(
    st.builds(IngressAddress, st.sampled_from([b"a", b"b", b"c"]), st.integers(1, 8)), unique=True, max_size=20
)


@given(st.lists(st.tuples(wishes, st.booleans()), max_size=8))
def test_an_index_is_kept_and_never_reassigned_in_one_step(steps) -> None:
    places = {}
    for wanted, keep in steps:
        before, (places, left_out) = places, assign_indexes(places, wanted, keep=keep)
        assert len(set(places.values())) == len(places)
        assert set(places.values()) <= set(range(MAX_LOCAL_DROPLETS))
        assert set(wanted) - set(left_out) == places.keys() & set(wanted)
        holders = {index: arrival for arrival, index in before.items()}
        assert all(holders.get(index, arrival) == arrival for arrival, index in places.items())
        assert not keep or before.keys() <= places.keys()


def test_there_are_as_many_indexes_as_the_map_has_entries() -> None:
    wanted = ingress_addresses(bytes([10, 0, 0, 1]), range(1, MAX_LOCAL_DROPLETS + 3))
    places, left_out = assign_indexes({}, wanted, keep=False)
    assert len(places) == MAX_LOCAL_DROPLETS
    assert left_out == wanted[-2:]


def test_indexes_are_read_back_from_the_map() -> None:
    address = mapped(bytes([10, 0, 0, 1]))
    entries = {U32.pack(index): LOCAL_DROPLET.pack(address, 9, index, 9, bytes(6), 0, 0) for index in (3, 1)}
    entries[U32.pack(0)] = bytes(LOCAL_DROPLET.size)
    assert indexes_of(entries) == {IngressAddress(address, 3): 3, IngressAddress(address, 1): 1}
