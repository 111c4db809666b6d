"""lowmag: train histology classifiers at high magnification, deploy them at low magnification."""

__version__ = "0.1.0"
