"""``dmgan-fast web``: a page to play with. What it does is in ``studio``, what it shows in ``views``, its layout in
``layout``, which alone knows gradio, and what it lets in and serves in ``guard`` and ``server``."""
