"""Distributed GAN augmentation for rare chest pathologies, after Salehinejad et al. (ICASSP 2018)."""

__version__ = "0.1.0"
