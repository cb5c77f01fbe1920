

def test_a_threshold_whose_limit_was_cleared_before_it_was_told_is_told_once_it_is_set_again() -> None:
    """I9: the bus failed, then the limit applied to nobody for a while; what acts is told, in the same window, too."""
    limited = Limited()
    limited.customer(plans=())
    own = OfCustomer("requests", "day", 10)
    there = limited.items.set("acme", own)
    limited.use(10)
    limited.bus.refuses = lambda _: True
    limited.look()
    limited.items.clear("acme", there)
    limited.look()
    limited.bus.refuses = lambda _: False
    limited.items.set("acme", own)
    limited.look()
    assert limited.bus.steps == ["stop:100"]
