"""What a guest that means harm may try: one test per published advisory, and random bytes."""
