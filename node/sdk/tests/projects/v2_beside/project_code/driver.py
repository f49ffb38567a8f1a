from model import *

import foundations
import settings

# What lies beside the script, and what lies at the root, were both found.
foundations.log_metric("score", double(settings.RATE))
