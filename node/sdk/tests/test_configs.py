"""The configurations in `configs`, which this package and the program fnode must read in the same way.

Beside each ``NAME.yaml`` lies ``NAME.json``: what is read from it as job.config.yaml, or the error. Slips of syntax have
only the line in common (``error_line``). ``FNODE_BLESS=1`` writes the JSON anew, which the program's own test then judges.
"""

import glob
import json
import os
import shutil
import unittest

import support

import foundations
from foundations import _config, _job_config, _submit, _values

CONFIGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs")
# Found before a test clears its environment.
BLESS = os.environ.get("FNODE_BLESS") == "1"


class Configs(support.Case):
    def test_every_configuration_is_read_as_written_down(self):
        cases = sorted(glob.glob(os.path.join(CONFIGS, "*.yaml")))
        self.assertGreater(len(cases), 10)
        for case in cases:
            wanted_path = case[: -len(".yaml")] + ".json"
            found = self.as_read(case)
            if BLESS:
                self.bless(case, wanted_path, found)
            with open(wanted_path, encoding="utf-8") as file:
                wanted = json.load(file)
            if "error_line" in wanted:
                start = "PATH:{}: ".format(wanted["error_line"])
                self.assertTrue(found.get("error", "").startswith(start), (case, found))
            else:
                self.assertEqual(found, wanted, case)

    def bless(self, case, path, found):
        if os.path.basename(case).startswith("syntax_"):
            found = {"error_line": int(found["error"].split(":")[1])}
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(found, indent=2, sort_keys=True) + "\n")

    def as_read(self, case):
        path = self.path("job.config.yaml")
        shutil.copyfile(case, path)
        # What another case was warned of is not said again otherwise.
        support.start_anew()
        with self.printed() as lines:
            try:
                config = _job_config.read(self.dir)
            except foundations.ConfigurationError as error:
                return {"error": str(error).replace(path, "PATH")}
        params = record = None
        if config.params is not None:
            record = _values.json_text(config.params, "params")
            record = None if '{"f":"' in record else record
            _submit._write_parameters(self.dir, config.params)
            params = self.read("foundations_job_parameters.json")
        return {
            "project_name": config.project_name,
            "log_level": config.log_level,
            "entrypoint": config.entrypoint,
            "ram_bytes": None if config.ram is None else _config.ram_bytes(config.ram),
            "num_gpus": config.num_gpus,
            "params": params,
            "params_record": record,
            "environment": config.environment,
            "warnings": [line.replace("Foundations WARNING: ", "").replace(path, "PATH") for line in lines],
        }


if __name__ == "__main__":
    unittest.main()
