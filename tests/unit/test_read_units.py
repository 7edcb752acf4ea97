from measure.bench.read_units import measure


def test_what_is_asked_for_a_tenant_costs_what_the_tenant_has() -> None:
    rows = [*measure(many=2000)]

    of_few = [units for _, tenant, _, units in rows if tenant == "few"]
    assert len(of_few) == 9
    assert max(of_few) < 8
    # two for each event and its copy, and little for the rows that a filter leaves out
    for _, _, events, units in rows:
        assert units < 2.2 * events + 10
