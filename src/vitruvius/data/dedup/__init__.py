"""Exact and near duplicates: signatures, candidates by bands, exact Jaccard, one keeper whatever the order."""
