"""What messages may hold, in each dialect clients speak: rows of the fidelity table."""

from .fidelity_bodies import ANTHROPIC, CHAT, HI, PDF, PNG, RESPONSES, WAV, Feature, anthropic, chat, responses, user

CONTENTS = (
    Feature(
        "text",
        {
            CHAT: chat({"role": "user", "content": "marktext"}),
            RESPONSES: responses({"role": "user", "content": "marktext"}),
            ANTHROPIC: anthropic({"role": "user", "content": "marktext"}),
        },
        ("marktext",),
    ),
    Feature(
        "system",
        {
            CHAT: chat({"role": "developer", "content": "marksystem"}, HI),
            RESPONSES: responses(instructions="marksystem"),
            ANTHROPIC: anthropic(system="marksystem"),
        },
        ("marksystem",),
    ),
    Feature(
        "system in mid-conversation",
        {
            CHAT: chat(HI, {"role": "system", "content": "marksystem"}),
            RESPONSES: responses(HI, {"role": "developer", "content": "marksystem"}),
            ANTHROPIC: anthropic(HI, {"role": "system", "content": "marksystem"}),
        },
        ("marksystem",),
    ),
    Feature("name of a speaker", {CHAT: chat({"role": "user", "content": "Hi", "name": "markname"})}, ("markname",)),
    Feature(
        "image, base64",
        {
            CHAT: chat(user({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}})),
            RESPONSES: responses(user({"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"})),
            ANTHROPIC: anthropic(
                user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}})
            ),
        },
        (PNG,),
    ),
    Feature(
        "image, by address",
        {
            CHAT: chat(user({"type": "image_url", "image_url": {"url": "https://mark.example/a.png"}})),
            RESPONSES: responses(user({"type": "input_image", "image_url": "https://mark.example/a.png"})),
            ANTHROPIC: anthropic(
                user({"type": "image", "source": {"type": "url", "url": "https://mark.example/a.png"}})
            ),
        },
        ("https://mark.example/a.png",),
    ),
    Feature(
        "detail of an image",
        {
            CHAT: chat(user({"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "high"}})),
            RESPONSES: responses(user({"type": "input_image", "image_url": "https://x/a.png", "detail": "high"})),
        },
        ('"detail":"high"',),
    ),
    Feature(
        "PDF, base64",
        {
            CHAT: chat(
                user(
                    {
                        "type": "file",
                        "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
                    }
                )
            ),
            RESPONSES: responses(
                user(
                    {
                        "type": "input_file",
                        "filename": "a.pdf",
                        "file_data": f"data:application/pdf;base64,{PDF}",
                    }
                )
            ),
            ANTHROPIC: anthropic(
                user(
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                    }
                )
            ),
        },
        (PDF,),
    ),
    Feature(
        "PDF, by address",
        {
            RESPONSES: responses(user({"type": "input_file", "file_url": "https://mark.example/a.pdf"})),
            ANTHROPIC: anthropic(
                user({"type": "document", "source": {"type": "url", "url": "https://mark.example/a.pdf"}})
            ),
        },
        ("https://mark.example/a.pdf",),
    ),
    Feature(
        "file, by the vendor's id",
        {
            CHAT: chat(user({"type": "file", "file": {"file_id": "file-mark"}})),
            RESPONSES: responses(user({"type": "input_file", "file_id": "file-mark"})),
            ANTHROPIC: anthropic(user({"type": "document", "source": {"type": "file", "file_id": "file-mark"}})),
        },
        ("file-mark",),
    ),
    Feature(
        "document of plain text",
        {
            ANTHROPIC: anthropic(
                user(
                    {
                        "type": "document",
                        "source": {"type": "text", "media_type": "text/plain", "data": "markwords"},
                    }
                )
            )
        },
        ("markwords",),
        {RESPONSES: lambda body: "bWFya3dvcmRz" in str(body)},  # in base64
    ),
    Feature(
        "title and context of a document",
        {
            ANTHROPIC: anthropic(
                user(
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                        "title": "marktitle",
                        "context": "markcontext",
                    }
                )
            )
        },
        ("marktitle", "markcontext"),
    ),
    Feature(
        "audio",
        {CHAT: chat(user({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}))},
        (WAV,),
    ),
)
