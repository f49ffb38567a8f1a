"""Orbit's add-on to Foundations: its names can be imported, and say that they are not there yet when used."""

from foundations._later import Later, track_production_metrics

__all__ = ["DataContract", "track_production_metrics"]

DataContract = Later("DataContract", "Orbit's data contracts", "check the data in the job itself", __name__)
