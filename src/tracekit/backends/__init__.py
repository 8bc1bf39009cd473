"""Networks and libraries behind four small protocols: features, reconstruction, tracking, captioning."""
