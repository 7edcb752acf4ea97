from chalicelib.infra import clients as aws


def test_a_call_takes_at_most_call_seconds() -> None:
    config = aws.CONFIG
    tries = config.retries["total_max_attempts"]
    assert config.retries["mode"] == "standard"
    assert tries * (config.connect_timeout + config.read_timeout) + 1 <= aws.CALL_SECONDS
    # the threads of a batch do not wait for each other's connections
    assert config.max_pool_connections >= 64
