"""What every page of this program shares: style, templates, drawings, who is answered, and how it is served."""
