"""What is remembered of acknowledged accounts: the last ones, and never too many."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from transfer_engine.engine.known_accounts import KnownAccounts


@given(most=st.integers(1, 5), account_ids=st.lists(st.integers(0, 9)))
def test_it_knows_those_that_came_last(most: int, account_ids: list[int]) -> None:
    known, model = KnownAccounts(most), OrderedDict[int, None]()
    for account_id in account_ids:
        known.add(account_id)
        if account_id not in model:
            model[account_id] = None
            if len(model) > most:
                model.popitem(last=False)
        assert {number for number in range(10) if number in known} == set(model)
        assert len(known) == len(model)
