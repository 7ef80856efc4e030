"""What others read: drawings, bills and comparisons of architectures, as text and as SVG."""
