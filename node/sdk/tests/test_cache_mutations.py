"""0 stale, 0 needless: every mutation of the table, in processes of its own."""

import os
import unittest
from concurrent.futures import ThreadPoolExecutor

import cache_mutations
import support

try:
    import numpy
except ImportError:
    numpy = None


class Mutations(support.Case):
    def run_table(self, name, project, mutations):
        table = cache_mutations.Table(self.path(name), project)
        os.mkdir(self.path(name))
        table.first()
        stale, needless = [], []
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            all_computed = list(threads.map(table.computes, mutations))
        for mutation, computed in zip(mutations, all_computed):
            if mutation.must == "miss" and not computed:
                stale.append(mutation.name)
            if mutation.must == "hit" and computed:
                needless.append(mutation.name)
        self.assertEqual((stale, needless), ([], []))

    def test_no_mutation_is_stale_and_none_is_needless(self):
        self.assertGreaterEqual(len(cache_mutations.MUTATIONS), 40)
        self.run_table("plain", cache_mutations.PROJECT, cache_mutations.MUTATIONS)

    @unittest.skipUnless(numpy, "numpy is not installed: its arrays were not mutated")
    def test_arrays_count_by_their_elements(self):
        self.run_table("arrays", cache_mutations.ARRAYS, cache_mutations.ARRAY_MUTATIONS)


if __name__ == "__main__":
    unittest.main()
