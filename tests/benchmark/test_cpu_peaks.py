from lstm_deploy.benchmark.cpu_peaks import caches


def test_caches_grow():
    sizes = [size for _, size in caches()]
    assert sizes == sorted(sizes)
    assert all(size >= 4096 for size in sizes)
