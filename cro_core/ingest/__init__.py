"""From what a website posts to clean events: devices, robots, places, pseudonyms."""
