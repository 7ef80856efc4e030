"""The account of prepared data: what is in it, where each document went, and what people should be told of it.

Everything here reads a folder that `data prepare` made, changes nothing, and gives plain JSON; pages are drawn in
`vitruvius.report`.
"""
