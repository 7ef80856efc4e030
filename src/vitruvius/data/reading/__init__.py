"""Bytes of any origin to documents: readers with a cap on memory, and a fate for everything they meet."""
