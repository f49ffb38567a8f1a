import sys

sys.path.append("/job/job_source/")
import settings
from model.train import train

import foundations

if settings.TRACK:
    params = foundations.load_parameters()
    foundations.set_tensorboard_logdir("logs")
    for name, value in train(params["rate"]).items():
        foundations.log_metric(name, value)
    print("first of PATH", sys.prefix)
