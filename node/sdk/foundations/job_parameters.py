"""Compatibility: ``from foundations.job_parameters import flatten_parameter_dictionary, …``."""

from ._parameters import flatten_parameter_dictionary, load_parameters, log_param, log_params

__all__ = ["flatten_parameter_dictionary", "load_parameters", "log_param", "log_params"]
