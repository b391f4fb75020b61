from types import SimpleNamespace

import pytest

from calling import script
from corsa.errors import UsageError
from corsa.progress import Silent


@pytest.fixture
def floor():
    return script("benchmarks/kept_floor.py")


def test_stores_with_as_many_rounds_are_asked_under_adapters_of_their_own(
    floor, tmp_path, monkeypatch
):
    attached = []

    class Base:
        def load_adapter(self, name, folder):
            assert name not in [known for known, _ in attached]
            attached.append((name, folder))
            return SimpleNamespace(name=name)

    class Answerer:
        def __init__(self, base, adapter=None):
            pass

        def answers(self, prompts, tokens, progress):
            return [SimpleNamespace(text="Paris") for _ in prompts]

    asked = [
        {"prompt": "France?", "answers": ("Paris",)},
        {"prompt": "Peru?", "answers": ("Lima",)},
    ]
    monkeypatch.setattr(floor, "load_model", lambda *_: Base())
    monkeypatch.setattr(floor, "ModelAnswerer", Answerer)
    monkeypatch.setattr(floor, "Ledger", lambda path: SimpleNamespace(head=5))
    monkeypatch.setattr(floor, "neighbours", lambda *_: iter(asked))
    stores = [tmp_path / "one", tmp_path / "two"]
    for store in stores:
        store.mkdir()
    found = list(floor.count(tuple(stores), tmp_path / "cf.json", 500, "tiny", 32, Silent()))
    assert [folder for _, folder in attached] == [store / "rounds" / "0005" for store in stores]
    assert [(one["asked"], one["known"], one["edited"]) for one in found] == [(2, 1, 1)] * 2


def test_a_store_of_other_records_is_refused_by_name(floor, monkeypatch):
    edit = SimpleNamespace(id="cf-9", prompt="Who?")
    made = SimpleNamespace(edits=lambda: [SimpleNamespace(edit=edit)])
    ledger = SimpleNamespace(head=1, lineage=lambda _: [made])
    monkeypatch.setattr(floor, "load", lambda *_: SimpleNamespace(edits=()))
    with pytest.raises(UsageError, match="has no cf-9 from record 500 on: give the run's --from"):
        list(floor.neighbours(ledger, "cf.json", 500))
