def main(seed, seconds, cases): return 0
