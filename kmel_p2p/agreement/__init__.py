"""What the sites agree on, each concept declared once: everybody may import this room, and it imports nobody."""
