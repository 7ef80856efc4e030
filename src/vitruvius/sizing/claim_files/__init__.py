"""Files of claims that come with vitruvius."""
