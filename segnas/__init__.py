"""segnas: architecture search for semantic segmentation."""
