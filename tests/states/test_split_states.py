"""A side refuses ids that stand for two utterances."""

import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.data.audio import AudioInfo
from s3prl_mi.data.splits import Split
from s3prl_mi.data.utterances import Utterance
from s3prl_mi.states.split_states import SplitStates


def split(name, *ids):
    utterances = [Utterance(u, None, name, f"speaker of {name}", None) for u in ids]
    return Split(name, utterances, dict.fromkeys(ids, AudioInfo(16000, 16000, 1)), [], 0.0)


def test_ids_of_all_splits():
    side = SplitStates([split("a", "1", "2"), split("b", "3")], {})
    assert {u.id: u.speaker for u in side.utterances.values()} == {
        "1": "speaker of a",
        "2": "speaker of a",
        "3": "speaker of b",
    }


def test_one_id_in_two_splits():
    with pytest.raises(MIError, match="'2' is in a and again in b"):
        SplitStates([split("a", "1", "2"), split("b", "2")], {})


def test_a_split_that_is_named_twice():
    with pytest.raises(MIError, match="name each split once"):
        SplitStates([split("a", "1")] * 2, {})
