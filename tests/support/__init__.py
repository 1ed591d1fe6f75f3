"""What the tests share: random calls, bounds, checks of whole generations, stand-ins."""
