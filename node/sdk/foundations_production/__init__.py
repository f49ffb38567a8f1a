"""Model packages by class, of an early Foundations: the names can be imported, and say that they are not there yet."""

from foundations._later import Later

__all__ = ["Model", "Transformer", "load_model_package", "preprocessor"]

_PACKAGES = ("model packages", "keep the fitted objects with foundations.save_artifact", __name__)

Model = Later("Model", *_PACKAGES)
Transformer = Later("Transformer", *_PACKAGES)
load_model_package = Later("load_model_package", *_PACKAGES)
preprocessor = Later("preprocessor", *_PACKAGES)
