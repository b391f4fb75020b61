from corsa.bench.extras import EXTRAS, PROTOCOLS


def test_every_measure_says_how_it_measures():
    assert list(EXTRAS) == list(PROTOCOLS)
    assert all(PROTOCOLS.values())
