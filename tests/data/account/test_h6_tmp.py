def test_x(real):
    print((real/'data/quarantine.jsonl').read_text())
    print((real/'data/counts.json').read_text())
    assert 0
