"""Chat templates in the styles of well-known families, written for these tests, and conversations to run them on."""

_ALTERNATE = """{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('user and assistant have to take turns') }}{% endif %}{% endfor %}"""

TEMPLATES = {
    "chatml": """{% for m in messages %}
{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "chatml with a default system": """{%- for m in messages %}
    {%- if loop.first and m.role != 'system' %}
        {{- '<|im_start|>system\nYou are of help.<|im_end|>\n' }}
    {%- endif %}
    {{- '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}""",
    "llama 2": """{% if messages[0]['role'] == 'system' %}
{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}
{% else %}{% set rest = messages %}{% set system = false %}{% endif %}
{% for m in rest %}
{% if loop.index0 == 0 and system != false %}{% set text = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}
{% else %}{% set text = m['content'] %}{% endif %}
{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}
{% elif m['role'] == 'assistant' %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}
{% endfor %}""",
    "llama 3": """{% set loop_messages = messages %}{% for m in loop_messages %}
{% set text = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}
{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}""",
    "llama 3.1": """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if builtin_tools is defined or tools is not none %}{{- 'Environment: ipython\n' }}{%- endif %}
{{- 'Today is ' + date_string + '\n\n' + system + '<|eot_id|>' }}
{%- for m in messages %}
    {%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}
        {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in m %}
        {%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
        {%- if m.content is mapping or m.content is iterable %}{{- m.content | tojson }}{%- else %}
    {{- m.content }}{%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}""",
    "llama 3.2": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now('%d %b %Y') %}
    {%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}
{%- endif %}
{{- 'Today: ' + date_string + '\n' }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>' + m.content | string + '<|eot_id|>' }}{%- endfor %}""",
    "llama 4": """{{- bos_token }}
{%- for m in messages %}
    {{- '<|header_start|>' + m['role'] + '<|header_end|>\n\n' }}
    {%- if m['content'] is string %}{{- m['content'] }}
    {%- else %}
        {%- for part in m['content'] %}
            {%- if part['type'] == 'image' %}{{- '<|image|>' }}{%- elif part['type'] == 'text' %}
    {{- part['text'] }}{%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\n\n' }}{%- endif %}""",
    "mistral v1": "{{ bos_token }}"
    + _ALTERNATE
    + """
{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}
{% else %}{{ m['content'] + eos_token + ' ' }}{% endif %}{% endfor %}""",
    "mistral v3": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{{- bos_token }}
{%- for m in loop_messages %}
    {%- if m.role == "user" %}
        {%- if tools is not none and m == user_messages[-1] %}{{- "[AVAILABLE_TOOLS] " ~ tools }}{%- endif %}
        {%- if loop.last and system_message is defined %}
    {{- "[INST] " + system_message + "\n\n" + m.content + "[/INST]" }}
        {%- else %}{{- "[INST] " + m.content + "[/INST]" }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- elif m.role == "assistant" and m.content is defined %}{{- " " + m.content | trim + eos_token }}
    {%- elif m.role == "tool" %}{{- '[TOOL_RESULTS] {"content": ' ~ m.content ~ '}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}{{- ns.index }}""",
    "mistral v7": """{%- set default = 'Be brief. Today is ' + strftime_now('%Y-%m-%d') + '.' %}{{- bos_token }}
{%- if messages[0].role == 'system' and messages[0].content is string %}
    {%- set system, rest = messages[0].content, messages[1:] %}
{%- else %}{%- set system, rest = default, messages %}{%- endif %}
{{- '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}
{%- for m in rest %}
    {%- if m.role == 'user' %}{{- '[INST]' ~ m.content ~ '[/INST]' }}
    {%- elif m.role == 'assistant' %}{{- m.content ~ eos_token }}
    {%- else %}{{- raise_exception('Only user and assistant, not ' + m.role) }}{%- endif %}
{%- endfor %}""",
    "mistral tekken": """{{- bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]
{%- elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}
{%- elif m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]{% endif %}{% endfor %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "phi 3": """{% for m in messages %}{% if m['role'] == 'system' %}{{'<|system|>\n' + m['content'] + '<|end|>\n'}}
{% elif m['role'] == 'user' %}{{'<|user|>\n' + m['content'] + '<|end|>\n'}}
{% elif m['role'] == 'assistant' %}{{'<|assistant|>\n' + m['content'] + '<|end|>\n'}}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}""",
    "phi 4": """{% for m in messages %}
{% if (m['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + m['content'] + '<|im_end|>'}}
{% elif (m['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + m['content'] + '<|im_end|>'}}
{% elif (m['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + m['content'] + '<|im_end|>'}}{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}""",
    "phi 4 mini": """{% for m in messages %}{% if m['role'] == 'system' and 'tools' in m and m['tools'] is not none %}
{{ '<|' + m['role'] + '|>' + m['content'] + '<|tool|>' + m['tools'] + '<|/tool|>' + '<|end|>' }}
{% else %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}""",
    "gemma 1": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('no system role') }}{% endif %}
{% for m in messages %}{% if (m['role'] == 'assistant') %}{% set role = 'model' %}{% else %}
{% set role = m['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}""",
    "gemma 3": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}{%- set prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for m in loop_messages -%}
    {%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else "") }}
    {%- if m['content'] is string -%}{{ m['content'] | trim }}
    {%- elif m['content'] is iterable -%}
        {%- for item in m['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}{%- elif item['type'] == 'text' -%}
    {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ raise_exception("what is this content") }}{%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}""",
    "qwen 2.5": """{%- if tools %}
{{- '# Tools\n<tools>' }}{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
{%- else %}{%- if messages[0]['role'] == 'system' %}
{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}{{- '<|im_start|>system\nYou are of help.<|im_end|>\n' }}{%- endif %}{%- endif %}
{%- for m in messages %}
    {%- if (m.role == "user") or (m.role == "system" and not loop.first) or (m.role == "assistant"
 and not m.tool_calls) %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}
    {%- elif m.role == "assistant" %}
        {{- '<|im_start|>' + m.role }}{%- if m.content %}{{- '\n' + m.content }}{%- endif %}
        {%- for tool_call in m.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
{{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
    {{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' }}{{- m.content }}{{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}""",
    "qwen 3": """{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and m.role == "user" and m.content is string
 and not(m.content.startswith('<tool_response>')) %}
        {%- set ns.multi_step = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.content is string %}{%- set content = m.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if m.role == "assistant" %}
        {%- set thought = '' %}
        {%- if m.reasoning_content is string %}{%- set thought = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
    {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{%- endif %}
        {{- content.lstrip('\n') + '<|im_end|>\n' }}
    {%- else %}{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}""",
    "smollm 2": """{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are of help.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    "smollm 3": """{# what stands first #}
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set mode = "/think" if enable_thinking else "/no_think" -%}
{{- "<|im_start|>system\nToday: " -}}{{- strftime_now("%d %B %Y") -}}{{- "\nMode: " + mode + "<|im_end|>\n" -}}
{%- for m in messages -%}
    {%- set content = m.content if m.content is string else "" -%}
    {%- if m.role == "user" -%}{{ "<|im_start|>" + m.role + "\n" + content + "<|im_end|>\n" }}
    {%- elif m.role == "assistant" -%}
        {% generation %}{{ "<|im_start|>assistant\n" + content.lstrip("\n") + "<|im_end|>\n" }}{% endgeneration %}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\n" }}{%- endif -%}""",
    "granite": """{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}
{%- set loop_messages = messages[1:] %}
{%- else %}{%- set system_message = "Knowledge ends in April.\nToday's Date: " + strftime_now('%B %d, %Y') + "." %}
{%- if tools and documents %}{%- set system_message = system_message + " Tools and documents." %}
{%- elif documents %}{%- set system_message = system_message + " Documents." %}{%- endif %}
{%- set loop_messages = messages %}{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\n' }}
{%- for m in loop_messages %}
{{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\n' }}
{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant' }}
{%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}{{- '<|end_of_role|>' }}{%- endif %}{%- endfor %}""",
    "deepseek": """{% if not add_generation_prompt is defined %}
{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}
{%- for m in messages %}{% if m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\n\n' }}
{%- elif m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}
{%- elif m['role'] == 'system' %}{{ m['content'] + '\n\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}""",
    "deepseek r1": """{% set ns = namespace(is_first=false, is_tool=false, system='') %}
{%- for m in messages %}{%- if m['role'] == 'system' %}{% set ns.system = m['content'] %}{%- endif %}{%- endfor %}
{{bos_token}}{{ns.system}}
{%- for m in messages %}
{%- if m['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' + m['content']}}{%- endif %}
{%- if m['role'] == 'assistant' and m['content'] is not none %}{% set content = m['content'] %}
{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{'<|Assistant|>' + content + eos_token}}{%- endif %}{%- endfor -%}
{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|><think>\\n'}}{% endif %}""",
    "command r": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}
{%- set system_message = messages[0]['content'] %}{% elif false == true %}{% set loop_messages = messages %}
{%- set system_message = 'You are Command.' %}{% else %}{% set loop_messages = messages %}
{% set system_message = false %}{% endif %}
{%- if system_message != false %}
{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}{% endif %}
{%- for m in loop_messages %}{% set content = m['content'] %}
{%- if m['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- elif m['role'] == 'assistant' %}
{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}""",
    "falcon": """{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}
{%- if message['role'] == 'system' %}{{ 'System: ' }}{% elif message['role'] == 'user' %}{{ 'User: ' }}
{%- elif message['role'] == 'assistant' %}{{ 'Falcon: ' }}{% endif %}{{ message['content'] }}{% endfor %}
{%- if add_generation_prompt %}{{ '\nFalcon:' }}{% endif %}""",
    "vicuna": """{% if messages[0].role == 'system' %}
{% set rest = messages[1:] %}{% set system = messages[0].content|trim ~ ' ' %}
{% else %}{% set rest = messages %}{% set system = 'A chat between a curious user and an assistant. ' %}{% endif %}
{{ bos_token + system }}{% for m in rest %}{% if m.role == 'user' %}{{ 'USER: ' + m.content|trim + ' ' }}
{% elif m.role == 'assistant' %}{{ 'ASSISTANT: ' + m.content|trim + eos_token }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}""",
    "alpaca": """{% for message in messages -%}
{% if message['role'] == 'system' %}{{ message['content'] }}

{% elif message['role'] == 'user' %}### Instruction:
{{ message['content'] }}

{% else %}### Response:
{{ message['content'] }}{{ eos_token }}

{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}### Response:
{% endif %}
""",
    "openchat": """{{ bos_token }}{% for message in messages %}
{{- 'GPT4 Correct ' + message['role'].title() + ': ' + message['content'] + '<|end_of_turn|>'}}{% endfor %}
{%- if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}""",
    "solar": """{% for message in messages %}
{% if message.role == 'system' %}{% if message.content%}### System:\n{{ message.content }}

{% endif %}{% elif message.role == 'user' %}### User:\n{{ message.content }}\n\n{% elif message.role == 'assistant' %}
### Assistant:\n{{ message.content }}\n\n{% endif %}{% if loop.last and add_generation_prompt %}
### Assistant:\n{% endif %}{% endfor %}""",
    "yi": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% endif %}
{% if system_message is defined %}{{ system_message }}{% endif %}{% for message in messages %}
{% set content = message['content'] %}{% if message['role'] == 'user' %}
{{ '<|im_start|>user\\n' + content + '<|im_end|>\\n<|im_start|>assistant\\n' }}
{% elif message['role'] == 'assistant' %}{{ content + '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}""",
    "internlm": """{{ bos_token }}{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "olmo": """{{ eos_token }}{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "with macros": """{%- macro type_of(spec) -%}
    {%- if spec.type == "array" -%}{{- type_of(spec['items']) + "[]" -}}
    {%- elif spec.type is iterable and spec.type is not string -%}{{- spec.type | join(" | ") -}}
    {%- else -%}{{- spec.type or "any" -}}{%- endif -%}
{%- endmacro -%}
{%- macro system() -%}
    {{- "Knowledge cutoff: 2024-06\nCurrent date: " + strftime_now("%Y-%m-%d") + "\n\n" }}
    {%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}
    {{- "Reasoning: " + reasoning_effort + "\n# " + type_of({"type": "array", "items": {"type": ["string", "null"]}}
) }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" }}{{- system() }}{{- "<|end|>" }}
{%- set state = namespace(last_tool_call=none) %}
{%- for m in messages -%}
    {%- if m.role == 'assistant' -%}
        {%- if "thinking" in m and loop.last %}
    {{- "<|start|>assistant<|channel|>analysis<|message|>" + m.thinking + "<|end|>" }}{%- endif %}
        {%- if loop.last and not add_generation_prompt %}
    {{- "<|start|>assistant<|channel|>final<|message|>" ~ m.content ~ "<|return|>" }}
        {%- else %}{{- "<|start|>assistant<|channel|>final<|message|>" ~ m.content ~ "<|end|>" }}{%- endif %}
    {%- elif m.role == 'tool' -%}
        {{- "<|start|>functions to=assistant<|channel|>commentary<|message|>" + m.content|tojson + "<|end|>" }}
    {%- else -%}{{- "<|start|>" ~ m.role ~ "<|message|>" ~ m.content ~ "<|end|>" }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}""",
    "hermes": """{{bos_token}}{{ '<|im_start|>system\nYou call functions. Tools: <tools>' }}
{%- for tool in tools or [] %}{{- tool | tojson(indent=2) }}{%- endfor %}{{ '</tools>' }}
{{- ' Schema: ' + {"properties": {"name": {"type": "string"}, "é": '<a href="x">&\\'</a>'}}
 | tojson + '<|im_end|>\n' }}
{%- for m in messages %}
    {%- if m.role == "user" or m.role == "system" or (m.role == "assistant" and m.tool_calls is not defined) %}
        {{- '<|im_start|>' + m.role + '\n' ~ m.content + '<|im_end|>' + '\n' }}
    {%- elif m.role == "assistant" %}
        {{- '<|im_start|>' + m.role }}
        {%- for call in m.tool_calls %}{{- '\n<tool_call>\n' }}
            {%- set call = call.function if call.function is defined else call %}
            {{- {"name": call.name, "arguments": call.arguments} | tojson(sort_keys=true, separators=(',', ':')) }}
            {{- '\n</tool_call>' }}{%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == "tool" %}{{- '<|im_start|>tool\n<tool_response>\n' ~ m.content }}
        {%- if not loop.last %}{{- '\n</tool_response>\n' }}{%- else %}{{- '\n</tool_response>' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}""",
    "functionary": """{% for m in messages %}
{% if m['role'] == 'user' or m['role'] == 'system' %}
{{ '<|from|>' + m['role'] + '\n<|recipient|>all\n<|content|>' + m['content'] + '\n' }}{% elif m['role'] == 'tool' %}
{{ '<|from|>' + m['name']|default('tool') + '\n<|recipient|>all\n<|content|>' + m['content']|string + '\n' }}
{% else %}
{% set contain_content = 'no' %}
{% if m['content'] is not none %}
{{ '<|from|>assistant\n<|recipient|>all\n<|content|>' ~ m['content'] }}{% set contain_content = 'yes' %}
{% endif %}
{{ '<|stop|>\n' }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|from|>assistant\n<|recipient|>' }}{% endif %}""",
    "loop controls": """{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}
{% if loop.index > 4 %}{% break %}{% endif %}{{ loop.index ~ ':' ~ m.content }}{% if not loop.last %},{% endif %}
{% else %}nothing{% endfor %}
{{ messages | selectattr('role', 'in', ['user', 'tool']) | map(attribute='role') | join('+') }}""",
    "filters": """{{ messages | map(attribute='role') | unique | sort | list }}{{ messages | length }}
{% for role, group in messages | groupby('role') %}
{{ role }}={{ group | map(attribute='content') | list | tojson }};{% endfor %}
{{ messages[-1].content | string | upper | replace('A', '4') | truncate(30) | e }}
|{{ messages | first | items | list | tojson }}
{{ '%s and %d' % ('text', 3) }}{{ '{} {!r}'.format(1, 'x') }}{{ 'a b'.split() | join('-') }}
{{ messages | batch(2) | list | length }}
{{ [3, 1, 2] | sort(reverse=true) }}{{ 'abc'[::-1] }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ -7 % 3 }}{{ 1.5 | round }}
{{ (1, 2) }}{{ 'x' * 3 }}""",
    "names": """{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}{{ sep_token is defined }}
{{ image_token }}{{ boi_token }}
{{- additional_special_tokens is defined }}{{ tools }}{{ documents }}{{ tools is defined }}{{ nothing is defined }}
{{ add_generation_prompt }}
{{- messages | map(attribute='content') | map('string') | join(sep_token | default('|')) }}{{ dict(a=1) }}
{{ dict.fromkeys('ab', 0) }}""",
    "blocks and calls": """{% macro wrap(tag) %}<{{ tag }}>{{ caller(tag | length) }}</{{ tag }}>{% endmacro %}
{% for m in messages recursive %}{% call(n) wrap(m.role) %}{{ n }}{{ m.content }}{% endcall %}
{% if m.tool_calls %}{{ m.tool_calls | tojson(indent=2) }}{% endif %}{% endfor %}
{% set text %}{% for m in messages %}{{ m.role[0] }}{% endfor %}{% endset %}{{ text }}{{ text ~ text ~ (text ~ 1) }}
{% filter upper %}shout {{ text }}{% endfilter %}{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{% raw %}
{{ raw }}{% endraw %}
{%- set ns = namespace(n=0) %}{% for m in messages if m.role == 'user' %}{% set ns.n = ns.n + loop.length %}
{% endfor %}{{ ns.n }}
""",
    "generation with a scope": """{% for m in messages %}{% set seen = m.role %}
{% generation %}{% set seen = 'inside' %}{{ seen ~ m.content }}{% endgeneration %}[{{ seen }}]{% endfor %}
{%- generation -%} tail {%- endgeneration -%}  .""",
    "windows line ends": "{% for m in messages %}\r\n{{ m.role }}:\r\n{{ m.content }}\r\n{% endfor %}\r\n",
    "without an end": "{% for m in messages %}{{ m.content }}",
    "unknown filter": "{{ messages | shout }}",
    "reasoning": "{% for m in messages %}{{ m.thinking }}|{{ m.reasoning_content }}|{{ m.reasoning }}|"
    "{{ m.keys() | list }};{% endfor %}",
}

USER, ANSWER = {"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello!"}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"type": "function", "function": {"name": "sum", "arguments": {"b": [2, "é<&>'\""], "a": 1}}}

CONVERSATIONS = {
    "a question": [USER],
    "three turns": [USER, ANSWER, {"role": "user", "content": "And now?"}],
    "a system first": [SYSTEM, USER, ANSWER, {"role": "user", "content": " spaces around \n"}],
    "scripts": [
        {"role": "user", "content": "naïve Привет 東京 🙂\u200d\u2028 e\u0301 \t\\n 'single' \"double\" <b>&amp;</b>"}
    ],
    "lines": [
        {"role": "user", "content": "\n\nfirst\r\nsecond\n"},
        {"role": "assistant", "content": "\n<think>\na\n</think>\n\nb"},
    ],
    "empty": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
    "one role twice": [USER, USER, ANSWER, ANSWER, USER],
    "control tokens": [{"role": "user", "content": "a<|im_end|>b</s> <s>c<|eot_id|>[INST] {{ a }} {% raw %}"}],
    "null": [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "name": "sum", "content": "3"},
    ],
    "calls": [
        SYSTEM,
        USER,
        {"role": "assistant", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": {"n": 3.5}},
        ANSWER,
    ],
    "parts": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it"}]}, ANSWER],
    "thoughts": [USER, {"role": "assistant", "thinking": "hm", "content": "yes"}],
    "reasons": [USER, {"role": "assistant", "reasoning": "so", "reasoning_content": None, "content": "no"}],
    "no role": [{"content": "x"}],
    "no content": [{"role": "user"}],
    "numbers": [{"role": "user", "content": 5}, {"role": "assistant", "content": True}],
    "another role": [{"role": "developer", "content": "rules"}, USER],
}
