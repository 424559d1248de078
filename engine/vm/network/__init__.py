"""What a step may reach, judged outside the guest: every frame that a guest sends passes through here."""
