"""The chat page: one document without anything from elsewhere, and the route that serves it."""
