"""An HTTP server that segments images: requests, batches, and what watches over them."""
