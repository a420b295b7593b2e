"""How findings and facts are shown: rows declared once, as text and as JSON."""
