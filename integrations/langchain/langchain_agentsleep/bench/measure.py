bench_agent=None
