"""What the desk of a site answers: newcomers with an invitation, and the other sites' operators."""
